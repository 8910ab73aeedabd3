"""Gradients of expectations over discrete or unreparametrised draws: one signature, from REINFORCE to DisARM."""

from thunderstone_estimators.score_function.antithetic import ARM as ARM
from thunderstone_estimators.score_function.antithetic import DisARM as DisARM
from thunderstone_estimators.score_function.baselines import NVIL as NVIL
from thunderstone_estimators.score_function.baselines import MuProp as MuProp
from thunderstone_estimators.score_function.estimate import ScoreFunctionEstimate as ScoreFunctionEstimate
from thunderstone_estimators.score_function.likelihood_ratio import LeaveOneOut as LeaveOneOut
from thunderstone_estimators.score_function.likelihood_ratio import Reinforce as Reinforce
from thunderstone_estimators.score_function.likelihood_ratio import VarGrad as VarGrad
from thunderstone_estimators.score_function.relaxed import REBAR as REBAR
from thunderstone_estimators.score_function.relaxed import RELAX as RELAX
